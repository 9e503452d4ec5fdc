"""The steps, in the order of their names; a step that was released is never changed."""
