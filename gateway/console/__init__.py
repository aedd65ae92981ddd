"""The console: the page at `/`, made of HTML, CSS and JavaScript modules that browsers load as they are."""
