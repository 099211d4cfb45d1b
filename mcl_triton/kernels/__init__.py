"""The two reductions and their gradient in Triton. Imported when first used, so that Triton may be missing."""
