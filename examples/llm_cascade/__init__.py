"""A cascade of paid models: from records of what they answered to a loop that asks as few as needed."""
