//! What can be wrong with a GGUF file.

use std::path::PathBuf;

/// A fault and the file it was found in.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct GgufError {
    /// The file, as it was named to `Gguf::open`.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

/// What is wrong with the file, or with what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system would not open or read the file.
    #[error("cannot be read")]
    Io(#[source] std::io::Error),

    /// The file does not begin like a GGUF file.
    #[error("is not a GGUF file: it begins with \"{}\", not with \"GGUF\"", found.escape_ascii())]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },

    /// The version is not one that is read here.
    #[error("has GGUF version {found}; versions 2 and 3 are read (convert the model again)")]
    Version {
        /// The version in the file.
        found: u32,
    },

    /// The file is for big-endian machines.
    #[error("is a big-endian GGUF file (version {version}); only little-endian ones are read")]
    BigEndian {
        /// The version, in its own byte order.
        version: u32,
    },

    /// The file ends before something that it announces.
    #[error("is cut off in {what}: {needed} bytes needed, {present} present")]
    Cut {
        /// What was being read, in words.
        what: String,
        /// Bytes that it takes at least.
        needed: u64,
        /// Bytes that were left in the file.
        present: u64,
    },

    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// Which text.
        what: String,
    },

    /// A value has a type number that the format does not have.
    #[error("{what} has value type {found}; GGUF has types 0 to 12")]
    ValueType {
        /// Which value.
        what: String,
        /// The number in the file.
        found: u32,
    },

    /// A truth value is neither 0 nor 1.
    #[error("{what} is a bool of value {found}; 0 or 1 is allowed")]
    Bool {
        /// Which value.
        what: String,
        /// The byte in the file.
        found: u8,
    },

    /// Arrays are nested deeper than is read here.
    #[error("{what} nests arrays more than {max} deep")]
    Nesting {
        /// Which value.
        what: String,
        /// The depth that is allowed.
        max: usize,
    },

    /// A key stands twice in the metadata.
    #[error("key \"{key}\" occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },

    /// A tensor's name stands twice in the tensor table.
    #[error("tensor \"{tensor}\" occurs twice")]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
    },

    /// `general.alignment` is unusable.
    #[error("general.alignment is {found}; a power of two is needed")]
    Alignment {
        /// The alignment in the file.
        found: u64,
    },

    /// A tensor has no axis, or too many.
    #[error("tensor \"{tensor}\" has {found} dimensions; 1 to 4 are allowed")]
    DimensionCount {
        /// The tensor.
        tensor: String,
        /// The count in the file.
        found: u32,
    },

    /// A tensor has an axis of length zero, or more elements than can be counted.
    #[error("tensor \"{tensor}\" has dimensions {dims:?}, whose product is zero or too large")]
    Dimensions {
        /// The tensor.
        tensor: String,
        /// Its dimensions, outermost first.
        dims: Vec<u64>,
    },

    /// A tensor's type is not one that is read here.
    #[error("tensor \"{tensor}\" is of type {name}, which is not supported ({supported} are)")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The name of its type, or its number where it has no name.
        name: String,
        /// The names of the types that are read.
        supported: String,
    },

    /// The rows of a quantised tensor do not consist of whole blocks.
    #[error("tensor \"{tensor}\" has rows of {row} elements; {kind} needs a multiple of {block}")]
    BlockSize {
        /// The tensor.
        tensor: String,
        /// The name of its type.
        kind: &'static str,
        /// Its innermost dimension.
        row: usize,
        /// Elements in a block.
        block: usize,
    },

    /// A tensor does not begin where the alignment allows.
    #[error("tensor \"{tensor}\" has offset {offset}, which is not a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset within the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },

    /// A tensor's bytes reach past the end of the file.
    #[error("tensor \"{tensor}\" needs {needed} bytes from byte {from}; {present} are present")]
    TensorCut {
        /// The tensor.
        tensor: String,
        /// Where its data begin, counted from the start of the file.
        from: u64,
        /// Bytes that it has.
        needed: u64,
        /// Bytes of the file from there on.
        present: u64,
    },

    /// Two tensors share bytes.
    #[error("tensors \"{first}\" and \"{second}\" share bytes of the file")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The one that begins before the first has ended.
        second: String,
    },

    /// The key is not in the metadata.
    #[error("has no key \"{key}\"")]
    MissingKey {
        /// The key that was asked for.
        key: String,
    },

    /// The key is there, with a value of another type.
    #[error("key \"{key}\" is of type {found}; {expected} is needed")]
    WrongType {
        /// The key that was asked for.
        key: String,
        /// The type in the file.
        found: &'static str,
        /// The type that was asked for.
        expected: &'static str,
    },

    /// The key is there, with a number that the type asked for cannot hold.
    #[error("key \"{key}\" is {found}, which is no {expected}")]
    OutOfRange {
        /// The key that was asked for.
        key: String,
        /// The number in the file.
        found: i128,
        /// The type that was asked for.
        expected: &'static str,
    },

    /// The tensor is not in the file.
    #[error("has no tensor \"{tensor}\"")]
    MissingTensor {
        /// The name that was asked for.
        tensor: String,
    },
}

/// `None` for a key that is not there; any other error stays an error.
///
/// # Errors
/// What `found` holds, unless it is [`Fault::MissingKey`].
pub fn optional<T>(found: Result<T, GgufError>) -> Result<Option<T>, GgufError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(GgufError {
            fault: Fault::MissingKey { .. },
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}
