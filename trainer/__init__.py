"""Shardtower: a distributed trainer of two-tower retrieval models on sharded embedding tables."""
