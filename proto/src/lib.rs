//! Messages and services: the public `lava.v1` of the coordinator, and `lava.worker.v1` between
//! coordinator and workers. The Rust code is generated from the `.proto` files by `cargo xtask codegen`
//! and committed. This crate knows nothing but the wire; whoever uses a message converts it once, at
//! its edge.

#![forbid(unsafe_code)]

mod codec;
mod digest;
mod ids;

pub use codec::StrictCodec;
pub use digest::{content_digest, prompt_digest, prompt_digest_of};
pub use ids::{ids_of_bytes, ids_to_bytes};

pub use lava::v1;
pub use lava::worker::v1 as worker;

/// Modules as the packages nest.
#[allow(missing_docs, clippy::all, unreachable_pub)]
mod lava {
    pub mod v1 {
        include!("generated/lava.v1.rs");
    }
    pub mod worker {
        pub mod v1 {
            include!("generated/lava.worker.v1.rs");
        }
    }
}

/// All messages and services as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// Largest message of control traffic, in bytes: a prompt of a million ids, a large vocabulary.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The largest HTTP/2 frame that our servers take. The usual 16 KiB cut a prompt of 50,000 ids into nine frames and cost
/// a coordinator some 5 % of its rate; these take a millisecond on a link of a gigabit a second, which is what others on the
/// connection wait.
pub const FRAME_BYTES_MAX: u32 = 128 << 10;
