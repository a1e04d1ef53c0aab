//! Transfers of random caches, whole and damaged in every way.

mod damage;
mod plain;
mod round_trip;
