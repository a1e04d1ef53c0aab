//! NCCL as a fabric.

use std::fmt;
use std::time::Duration;

use lava_kernels::cuda::{DeviceError, Nccl, NcclError, NcclPeer};

use crate::PAYLOAD_BYTES_MAX;
use crate::fabric::{Communicator, Fabric, FabricError, Rank, UniqueId};

/// NCCL on one GPU of this process.
pub struct NcclFabric(Nccl);

impl NcclFabric {
    /// For the device of this number, counted from 0.
    ///
    /// # Errors
    /// A library is missing, NCCL or what every GPU needs; or there is no such device.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        Nccl::open(ordinal).map(Self)
    }
}

impl fmt::Debug for NcclFabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NcclFabric({})", self.0.version())
    }
}

impl Fabric for NcclFabric {
    fn version(&self) -> u32 {
        self.0.version()
    }

    fn unique_id(&self) -> Result<UniqueId, FabricError> {
        self.0
            .unique_id()
            .map_err(|error| convert(error, Duration::ZERO))
    }

    fn join(
        &self,
        id: &UniqueId,
        rank: Rank,
        within: Duration,
    ) -> Result<Box<dyn Communicator>, FabricError> {
        let joined = self.0.join(id, rank.number(), PAYLOAD_BYTES_MAX, within);
        match joined {
            Ok(peer) => Ok(Box::new(peer)),
            Err(error) => Err(convert(error, within)),
        }
    }
}

impl Communicator for NcclPeer {
    fn send(&mut self, payload: &[u8], within: Duration) -> Result<(), FabricError> {
        NcclPeer::send(self, payload, within).map_err(|error| convert(error, within))
    }

    fn receive(&mut self, out: &mut [u8], within: Duration) -> Result<(), FabricError> {
        NcclPeer::receive(self, out, within).map_err(|error| convert(error, within))
    }
}

fn convert(error: NcclError, within: Duration) -> FabricError {
    match error {
        NcclError::Late { doing } => FabricError::Timeout { doing, within },
        NcclError::Failed { doing, reason } => FabricError::Failed { doing, reason },
        NcclError::Device(error) => FabricError::Failed {
            doing: "using the GPU",
            reason: error.to_string(),
        },
    }
}
