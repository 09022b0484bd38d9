"""A trained run as a page and a JSON API.

    app       the API: what is asked, what is answered
    limits    bounds on bodies, waiting and time; headers
    page/     the page itself: plain HTML, CSS and JavaScript, nothing from elsewhere

Needs the extra `serve` (FastAPI and uvicorn).
"""
