//! `/v1/admin`: what an operator sees and turns.

pub mod backends;
