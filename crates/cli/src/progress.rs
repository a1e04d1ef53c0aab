//! Progress bars: on a terminal only, and never on standard output.

use std::ops::ControlFlow;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use lava_engine::{LayerDone, Model, ModelFiles, WeightFormat};

use crate::options::Place;

/// Loads a model and shows its layers as they come.
pub(crate) fn load(files: &ModelFiles, format: WeightFormat) -> Result<Model> {
    with_bar(&mut |progress| Ok(Model::load(files, format, progress)?))
}

/// The same, where the model shall run.
pub(crate) fn load_at(files: &ModelFiles, format: WeightFormat, place: &Place) -> Result<Model> {
    match place.on_device()? {
        None => load(files, format),
        Some(on) => with_bar(&mut |bar| Ok(Model::load_on(on.clone(), files, format, bar)?)),
    }
}

/// Loads something and says how far it is: layers that are done, and all.
pub(crate) type Loading<'a, T> = dyn FnMut(&mut dyn FnMut(usize, usize)) -> Result<T> + 'a;

/// Lets `load` load something and shows how far it is.
pub(crate) fn with_bar<T>(load: &mut Loading<'_, T>) -> Result<T> {
    let bar = bar("loading");
    let loaded = load(&mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    Ok(loaded)
}

/// A callback for a prefill over `layers` layers.
pub(crate) fn prefill(layers: usize) -> impl FnMut(LayerDone<'_>) -> ControlFlow<()> {
    let bar = bar("prefill");
    bar.set_length(layers as u64);
    move |done| {
        bar.set_position(done.layer as u64 + 1);
        if done.layer + 1 == layers {
            bar.finish_and_clear();
        }
        ControlFlow::Continue(())
    }
}

/// indicatif draws on standard error, and hides itself where that is no terminal.
fn bar(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:30} layer {pos}/{len}")
        .expect("the template is valid");
    ProgressBar::new(0).with_style(style).with_prefix(name)
}
