"""Names of features: matching, joining and explanations of mismatches."""
