//! What the corporate server says, and how it fails: each recipient ends as the verdict on it says, whatever is cut
//! off is still queued, and `queue list` tells the truth.
