"""What a net has learned, as figures and as pages."""
