//! fetchmail in ODMR mode pulls from the real relay: the most widely installed customer of RFC 2645.
