"""The world behind the proxy: LLM servers whose every byte is known beforehand. They must outrun every target."""
