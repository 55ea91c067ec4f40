//! The wire types of OpenAI's API: requests read strictly, answers written exactly.
//!
//! Requests are read through [`Fields`], not by derive: an unknown parameter is refused by its
//! name with the nearest known one beside it, a wrong value by its path (`messages[2].content`),
//! and `null` means absent everywhere.

pub mod chat;
pub mod completion;
pub mod embedding;
pub mod fields;
pub mod message;
pub mod options;
pub mod response;
pub mod tokenize;
pub mod tool_calls;

pub use fields::Fields;
