"""The pair factory: near-silent scenes, scores arranged and rendered to them, and pairs of both."""
