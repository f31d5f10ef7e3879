//! Mail clients of other people deliver to the relay with STARTTLS.
