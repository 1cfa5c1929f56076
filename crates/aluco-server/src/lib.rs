//! HTTP: API dialects, translated to and from one internal request and event type.
