"""What Holdfast is measured with: `scripts/bench`. One module per bench, entered in `__main__.BENCHES`."""
