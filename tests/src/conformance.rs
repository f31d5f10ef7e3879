//! Requirements.
