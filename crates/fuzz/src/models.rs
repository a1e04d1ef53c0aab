//! The header of a GGUF file, which may come from anywhere.

use std::io::Write as _;

use lava_gguf::Gguf;
use lava_test_support::{GgufKind, ToyModel};

use crate::memory;

/// Opens a file and looks at all that it has.
pub(crate) fn run(input: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("the system has a place for files");
    file.write_all(input).expect("the file is written");
    // A tensor of the table and a string of an array take more in memory than in the file.
    let most = memory::SLACK_BYTES / 4 + 64 * input.len();
    let Ok(gguf) = memory::within(most, || Gguf::open(file.path())) else {
        return;
    };
    assert!(matches!(gguf.version(), 2 | 3));
    for key in gguf.keys() {
        assert!(gguf.contains(key) && gguf.get(key).is_some());
    }
    let mut ends = 0;
    let mut tensors: Vec<_> = gguf.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.offset);
    for tensor in tensors {
        let found = gguf.tensor(&tensor.name).expect("names are found again");
        assert_eq!(found.offset, tensor.offset, "two tensors of one name");
        let bytes = gguf.read(tensor).expect("a tensor lies within its file");
        assert_eq!(bytes.len(), tensor.bytes);
        let start = usize::try_from(tensor.offset).expect("files are small");
        assert_eq!(input[start..][..tensor.bytes], bytes);
        assert!(start >= ends || bytes.is_empty(), "two tensors share bytes");
        ends = ends.max(start + tensor.bytes);
    }
}

/// A toy in the smallest size that the writer knows, and its beginning.
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("the system has a place for files");
    let path = folder.path().join("toy.gguf");
    let toy = ToyModel {
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        hidden: 4,
        intermediate: 4,
        vocab: 4,
        context: 8,
        ..ToyModel::default()
    };
    toy.write_gguf(&path, GgufKind::F16)
        .expect("the toy is written");
    let whole = std::fs::read(&path).expect("the toy is read");
    let begin = whole[..whole.len() / 2].to_vec();
    vec![("toy", whole), ("cut", begin)]
}
