//! Ten thousand messages from Postfix's `smtp-source`, pulled into its `smtp-sink` and into a real Postfix.
