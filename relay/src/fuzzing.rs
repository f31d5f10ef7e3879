//! What the fuzz targets reach of rooms that are closed otherwise. Nothing else uses it.

pub use crate::edge::verify::fuzzing::{Filtered, without_forged_results};
pub use crate::proxy::header_in as proxy_header;
