"""Expert branches for distorted images: trained, routed, cached, and held against one set of branches."""
