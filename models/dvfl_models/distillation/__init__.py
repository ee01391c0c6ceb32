"""The loss of a student: its terms, its teacher, and the teacher's logits on disk."""
