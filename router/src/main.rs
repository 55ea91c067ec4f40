//! placeholder until the library is whole
fn main() {}
