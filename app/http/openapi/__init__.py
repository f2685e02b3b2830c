"""The description of the API in OpenAPI 3.1, made of what the routes really use.

describe    what a route says of itself, by a decorator: which answer, which body, what it refuses
bodies      marshmallow schemas of request bodies, as JSON Schema
answers     TypedDicts of answers (`app/wire`), likewise
failures    every status with the codes that it comes with
glossary    what a name means, wherever it stands
operations  one route after the other: parameters, headers, body, answers
document    all of it together, and its examples
page        the same for people
"""
