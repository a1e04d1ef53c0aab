//! The crate against its reference vectors, its laws, and its slow oracles.

mod budget_laws;
mod golden;
mod inputs;
mod laws;
mod more_vectors;
mod oracles;
mod policy_laws;
mod policy_vectors;
