"""What a student learns from: losses, its teacher, and what the teacher said."""
