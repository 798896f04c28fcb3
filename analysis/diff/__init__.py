"""Two results side by side: what is equal, what differs, and what differs beyond the noise of steps or of dumps."""
