//! Nobody outside may panic a simulated mongod, stall it, or disturb another client: each well-framed
//! request gets a reply, and a malformed frame closes its own connection alone.

mod arguments;
mod bytes;
mod outside;
mod stories;
