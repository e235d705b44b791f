//! Worlds as their users see them.
