//! The behaviours of Engram as a whole, one file each.
