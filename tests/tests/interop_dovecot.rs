//! Mail pulled into a real Dovecot over LMTP.
