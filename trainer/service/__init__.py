"""An export as an HTTP service: recommendations as JSON, and a page to look at them."""
