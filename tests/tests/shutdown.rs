//! SIGTERM: sessions are told, accepted mail is on disk, both programs end soon.
