"""Networks of well-kept libraries, as task runs train and use them."""
