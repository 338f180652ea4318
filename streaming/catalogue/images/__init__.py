"""Images of products: from links to vectors.

A link passes through these modules:

    product_images   which images of a product must be fetched, and how they are put into its features
    vectors          links -> vectors, with a cache by content hash
    fetch            links -> pixels, several at once
    local_files      links to files below permitted folders -> bytes
    download         links to http(s) -> bytes, with one deadline for everything
    addresses        which addresses a download may connect to
    pixels           bytes of an image -> pixels of one size

`refresh` makes updates that request images again whose links have not changed.
"""
