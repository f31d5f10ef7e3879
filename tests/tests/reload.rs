//! Settings that change while the daemon runs: they take effect, no session is dropped, and a broken
//! file changes nothing.
