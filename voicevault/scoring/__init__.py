"""From scores to decisions: error rates, threshold policies, decisions and plots. Never imports torch."""
