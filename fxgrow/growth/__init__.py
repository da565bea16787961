"""From what a user asks for to a grown model: draft, widen, place, prove."""
