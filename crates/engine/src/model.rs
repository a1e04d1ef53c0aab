//! A model for every supported family, on the CPU or on a GPU.

use lava_kernels::cuda::{Compute, Gpu};

use crate::config::ModelConfig;
use crate::device::DeviceModel;
use crate::error::{EngineError, LoadError};
use crate::fingerprint::Fingerprint;
use crate::host::{Ends, HostModel, Layer};
use crate::linear::Linear;
use crate::pool::PagePool;
use crate::source::ModelFiles;
use crate::weights::{WeightFormat, Weights};

/// A loaded model. It is immutable: prefill and decode borrow it.
#[derive(Debug)]
pub struct Model {
    fingerprint: [u8; 16],
    pub(crate) place: Place,
}

/// Where a model runs.
#[derive(Debug)]
pub(crate) enum Place {
    Host(Box<HostModel>),
    Device(Box<DeviceModel>),
}

/// A GPU, and how a model runs on it.
#[derive(Clone, Debug)]
pub struct OnDevice {
    /// The GPU.
    pub gpu: Gpu,
    /// What products and attention read and write; weights are held so.
    pub compute: Compute,
    /// Tokens of a prompt that pass a layer together, which is what bounds activations.
    pub block_tokens: usize,
    /// Whether steps of a shape that comes again are recorded and replayed, which spares the host the launches of each.
    pub graphs: bool,
}

impl OnDevice {
    /// A GPU of NVIDIA's by its number, counted from 0.
    ///
    /// # Errors
    /// This program is built without CUDA; or the machine has no driver, no cuBLAS, or no such GPU.
    pub fn cuda(
        number: usize,
        compute: Compute,
        block_tokens: usize,
        graphs: bool,
    ) -> Result<Self, LoadError> {
        #[cfg(feature = "cuda")]
        let gpu = lava_kernels::cuda::CudaDevice::open(number);
        #[cfg(not(feature = "cuda"))]
        let gpu = Err(LoadError::WithoutCuda { number });
        Ok(Self {
            gpu: gpu?,
            compute,
            block_tokens,
            graphs,
        })
    }
}

impl Model {
    /// Loads a model to run on the CPU. `progress(done, total)` is called after each layer.
    ///
    /// # Errors
    /// The files are broken, incomplete, contradict each other, or hold a model of another kind; the
    /// error names file, tensor and both values.
    pub fn load(
        files: &ModelFiles,
        format: WeightFormat,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, LoadError> {
        let mut layers = Vec::new();
        let mut take = |_: &ModelConfig, layer: Layer| {
            layers.push(layer);
            Ok(())
        };
        let (config, ends, fingerprint) = read(files, format, &mut take, progress)?;
        let place = Place::Host(Box::new(HostModel::new(config, ends, layers)));
        Ok(Self { fingerprint, place })
    }

    /// Loads a model to run on a GPU: weights are read as `format` says and then held in 16 bits.
    ///
    /// # Errors
    /// As for [`load`](Self::load); a shape that no kernel is made for, or too little memory.
    pub fn load_on(
        on: OnDevice,
        files: &ModelFiles,
        format: WeightFormat,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, LoadError> {
        let mut layers = Vec::new();
        let mut take = |config: &ModelConfig, layer: Layer| {
            layers.push(on.upload(config, &layer)?);
            Ok(())
        };
        let (config, ends, fingerprint) = read(files, format, &mut take, progress)?;
        let model = DeviceModel::new(on, config, &ends, layers)?;
        let place = Place::Device(Box::new(model));
        Ok(Self { fingerprint, place })
    }

    /// Shape of the model.
    pub fn config(&self) -> &ModelConfig {
        match &self.place {
            Place::Host(model) => model.config(),
            Place::Device(model) => model.config(),
        }
    }

    /// Bytes of the weight matrices as they are held.
    pub fn weight_bytes(&self) -> usize {
        match &self.place {
            Place::Host(model) => model.weight_bytes(),
            Place::Device(model) => model.weight_bytes(),
        }
    }

    /// Equal for two models of which one can decode what the other has prefilled: the same configuration and weights,
    /// in one format, wherever they run.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.fingerprint
    }

    /// The memory of the GPU that it runs on, in bytes; none if it runs on the CPU.
    ///
    /// # Errors
    /// The GPU's.
    pub fn device_bytes(&self) -> Result<Option<u64>, EngineError> {
        match &self.place {
            Place::Host(_) => Ok(None),
            Place::Device(model) => Ok(Some(model.device().memory_bytes()?)),
        }
    }

    /// So many pages for its caches, where it runs.
    ///
    /// # Errors
    /// A GPU has too little memory for them.
    pub fn pool(&self, pages: usize) -> Result<PagePool, EngineError> {
        self.pool_of(self.config().page_bytes(), pages)
    }

    /// The same with pages of another size than the model's own.
    ///
    /// # Errors
    /// As for [`pool`](Self::pool).
    pub fn pool_of(&self, page_bytes: usize, pages: usize) -> Result<PagePool, EngineError> {
        match &self.place {
            Place::Host(_) => Ok(PagePool::new(page_bytes, pages)),
            Place::Device(model) => PagePool::on(model.gpu(), page_bytes, pages),
        }
    }
}

/// Reads a model; `take` gets its layers one by one.
fn read(
    files: &ModelFiles,
    format: WeightFormat,
    take: &mut dyn FnMut(&ModelConfig, Layer) -> Result<(), LoadError>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(ModelConfig, Ends, [u8; 16]), LoadError> {
    let (weights, config) = Weights::open(files)?;
    let mut fingerprint = Fingerprint::new(&config);
    let ends = Ends::load(&weights, &config, format)?;
    ends.matrices().for_each(|matrix| fingerprint.add(matrix));
    for index in 0..config.layers {
        let layer = Layer::load(&weights, &config, index, format)?;
        let matrices = layer.linears().map(Linear::matrix);
        matrices.for_each(|matrix| fingerprint.add(matrix));
        take(&config, layer)?;
        progress(index + 1, config.layers);
    }
    Ok((config, ends, fingerprint.finish()))
}
