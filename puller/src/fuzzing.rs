//! What the fuzz targets reach of rooms that are closed otherwise. Nothing else uses it.

pub use crate::reports::fuzzing::rebuilt_report;
