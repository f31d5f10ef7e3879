//! Several reversed sessions side by side while there is a backlog: each delivery goes through one of them, no domain
//! and no account waits for another, and the extra ones go with the backlog.

mod backlog;
mod fairness;
