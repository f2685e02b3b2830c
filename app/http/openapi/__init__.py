"""The description of the API in OpenAPI 3.1, generated from what the routes really use.

describe    a decorator that describes a route: its answer, its body, the errors it refuses a call with
bodies      marshmallow schemas of request bodies, as JSON Schema
answers     TypedDicts of answers (`app/wire`), as JSON Schema
failures    each error status with its codes
glossary    the meaning of each name, wherever it is used
operations  each route's parameters, headers, body and answers
document    the whole description, with its examples
page        the description as an HTML page
"""
