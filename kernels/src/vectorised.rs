//! Plain loops compiled for the widest vectors of the machine they run on.

/// A value that moves into a closure, so that the closure can run only once.
pub(crate) struct Once;

/// Evaluates a block with the vector instructions that the CPU has, chosen at run time by `pulp`.
///
/// The block becomes a closure that consumes a value. One that could run again would be called through
/// a shim, which the compiler builds for the baseline CPU and does not inline: the loops would then
/// call a library function for each fused multiply-add.
macro_rules! vectorised {
    ($body:block) => {{
        let once = $crate::vectorised::Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let _consumed: $crate::vectorised::Once = once;
                $body
            },
        )
    }};
}

pub(crate) use vectorised;
