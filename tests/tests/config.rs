//! Configuration that is wrong: one clear line each, the right exit code, nothing half-started.
