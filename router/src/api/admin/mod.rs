//! `/v1/admin`: what looks after the server itself, for keys with the scope `admin`.

pub mod backends;
pub mod flags;
pub mod keys;
