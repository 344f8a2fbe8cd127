"""Certificates: claims on risk or cost that rows which chose nothing prove, and a watch that keeps them."""
