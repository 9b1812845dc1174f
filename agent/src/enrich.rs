//! What /proc adds to a request, for the people who read it.
