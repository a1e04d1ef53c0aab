//! A small model, loaded once: what workers check requests against, and what they tell coordinators.

use std::sync::{Arc, OnceLock};

use lava_engine::ModelFiles;
use lava_proto::worker::{Description, Load, Role};
use lava_test_support::{HfDtype, ToyModel};
use lava_worker::{Loaded, ModelSection};

/// Bytes of a page, as in [`description`].
pub(crate) const PAGE_BYTES: u32 = 4096;

/// The model.
pub(crate) fn loaded() -> &'static Arc<Loaded> {
    static LOADED: OnceLock<Arc<Loaded>> = OnceLock::new();
    LOADED.get_or_init(|| {
        let folder = tempfile::tempdir().expect("the system has a place for temporary files");
        let toy = ToyModel::default();
        toy.write_hf(folder.path(), HfDtype::F32, 1)
            .expect("the toy is written");
        let files = ModelFiles::Folder(folder.path().to_owned());
        let section = ModelSection::default();
        Loaded::load(&section, "toy".into(), &files, &mut |_, _| {}).expect("the toy loads")
    })
}

/// A worker of it.
pub(crate) fn description(worker_id: &str, role: Role) -> Description {
    Description {
        worker_id: worker_id.to_owned(),
        role: role.into(),
        model: Some(loaded().describe()),
        load: Some(match role {
            Role::Prefill => Load {
                queue_max: 4,
                ..Load::default()
            },
            _ => Load {
                pages_total: 10_000,
                page_bytes: PAGE_BYTES,
                slots_max: 4,
                ..Load::default()
            },
        }),
        draining: false,
        prefixes: None,
    }
}
