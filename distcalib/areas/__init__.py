"""Area files: selection and writing."""
