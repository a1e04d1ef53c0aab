//! Transfers over real sockets: whole ones, and every way in which a peer or a link can fail.

mod cases;
mod lanes;
mod receiver;
mod sender;
